use kirie_mask::Mask;

use super::*;

fn square(x0: usize, side: usize) -> Rle {
    Rle::from_mask(&Mask::from_fn(20, 10, |x, y| (x0..x0 + side).contains(&x) && y < side))
}

fn new(x0: usize, side: usize) -> NewObject {
    NewObject {
        class: None,
        segmentation: square(x0, side),
        predicted_iou: Some(0.9),
        points: vec![[1.0, 2.0, 1.0]],
    }
}

const SIZE: (u32, u32) = (20, 10);

async fn ids(store: &Store) -> Vec<i64> {
    store.objects("a".into()).await.unwrap().iter().map(|object| object.id).collect()
}

#[tokio::test]
async fn objects_are_kept_changed_undone_and_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let cat = store.add_class(" cat ".into(), None).await.unwrap();
    assert_eq!((cat.name.as_str(), cat.colour.len()), ("cat", 7));
    assert!(matches!(store.add_class("cat".into(), None).await, Err(ApiError::Conflict(_))));

    let made = store.create("a".into(), SIZE, vec![new(0, 2), new(5, 3)]).await.unwrap();
    let other = store.create("b".into(), SIZE, vec![new(1, 1)]).await.unwrap();
    assert_eq!((made[1].bbox, made[1].area), ([5, 0, 3, 3], 9));
    let change = ChangeObject { revision: Some(1), class: Some(Some(cat.id)), ..ChangeObject::default() };
    let changed = store.change_object(made[0].id, SIZE, change.clone()).await.unwrap();
    assert_eq!((changed.class, changed.revision), (Some(cat.id), 2));
    assert!(matches!(store.change_object(made[0].id, SIZE, change).await, Err(ApiError::Conflict(_))));
    assert!(matches!(store.remove_class(cat.id).await, Err(ApiError::Conflict(_))));
    store.delete(made[1].id, None).await.unwrap();
    assert_eq!(ids(&store).await, [made[0].id]);

    // Back to nothing, step by step, and forth again.
    assert_eq!(store.undo("a".into()).await.unwrap().unwrap().changed[0].id, made[1].id);
    let step = store.undo("a".into()).await.unwrap().unwrap();
    assert_eq!((step.changed[0].class, step.changed[0].revision), (None, 3));
    let step = store.undo("a".into()).await.unwrap().unwrap();
    assert_eq!((step.changed.len(), step.removed.len()), (0, 2));
    assert_eq!(store.undo("a".into()).await.unwrap(), None);
    assert_eq!(store.can("a".into()).await.unwrap(), (false, true));
    for _ in 0..3 {
        store.redo("a".into()).await.unwrap().unwrap();
    }
    assert_eq!(store.redo("a".into()).await.unwrap(), None);
    let end = store.objects("a".into()).await.unwrap();
    assert_eq!(end.len(), 1);
    assert_eq!((end[0].class, &end[0].segmentation), (Some(cat.id), &made[0].segmentation));
    assert_eq!(store.objects("b".into()).await.unwrap(), other, "another picture is left alone");

    // A new change ends the way forth.
    store.undo("a".into()).await.unwrap().unwrap();
    store.create("a".into(), SIZE, vec![new(9, 1)]).await.unwrap();
    assert_eq!(store.redo("a".into()).await.unwrap(), None);
    assert_eq!(store.labelled().await.unwrap()["a"], Labelled { objects: 3, done: false });
}

#[tokio::test]
async fn a_class_that_is_gone_does_not_come_back_with_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let cat = store.add_class("cat".into(), Some("#AABBCC".into())).await.unwrap();
    assert_eq!(cat.colour, "#aabbcc");
    let made =
        store.create("a".into(), SIZE, vec![NewObject { class: Some(cat.id), ..new(0, 2) }]).await.unwrap();
    store.delete(made[0].id, Some(1)).await.unwrap();
    store.remove_class(cat.id).await.unwrap();
    let step = store.undo("a".into()).await.unwrap().unwrap();
    assert_eq!((step.changed[0].class, step.changed[0].id), (None, made[0].id));
    let dog = store.add_class("dog".into(), None).await.unwrap();
    assert_ne!(dog.id, cat.id);
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let empty = NewObject { segmentation: Rle::from_mask(&Mask::new(20, 10)), ..new(0, 1) };
    let large = NewObject { segmentation: Rle::from_mask(&Mask::from_fn(30, 10, |_, _| true)), ..new(0, 1) };
    let classless = NewObject { class: Some(7), ..new(0, 1) };
    let endless = NewObject { points: vec![[0.0, f64::INFINITY, 1.0]], ..new(0, 1) };
    let unsure = NewObject { predicted_iou: Some(f64::NAN), ..new(0, 1) };
    for bad in [empty, large, classless, endless, unsure] {
        // The first is good; it must not stay alone.
        let both = vec![new(3, 1), bad.clone()];
        assert!(
            matches!(store.create("a".into(), SIZE, both).await, Err(ApiError::Unprocessable(_))),
            "{bad:?}"
        );
    }
    assert!(ids(&store).await.is_empty());
    assert!(matches!(store.delete(4, None).await, Err(ApiError::NotFound { .. })));
    for name in ["", "  ", "a\nb", &"x".repeat(101)] {
        assert!(store.add_class(name.to_owned(), None).await.is_err(), "{name:?}");
    }
    for colour in ["red", "#12345", "#12345g", "#1234567", "\"><script>"] {
        assert!(store.add_class("c".into(), Some(colour.to_owned())).await.is_err(), "{colour}");
    }
}

#[tokio::test]
async fn all_is_there_after_opening_again_and_only_one_may_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(ServeError::InUse { .. })));
    let made = store.create("a".into(), SIZE, vec![new(0, 2)]).await.unwrap();
    store.set_done("a".into(), true).await.unwrap();
    store.add_upload("u1", "one.png").unwrap();
    let job = store.add_job("first".into(), "{}".into()).await.unwrap();
    store.set_job(job, JobState::Done, String::new()).await.unwrap();
    store.adopt(Some(job), Vec::new()).await.unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.objects("a".into()).await.unwrap(), made);
    assert_eq!(store.labelled().await.unwrap()["a"], Labelled { objects: 1, done: true });
    assert_eq!(store.uploads().unwrap(), [("u1".to_owned(), "one.png".to_owned())]);
    let kept = store.job(job).await.unwrap();
    assert!(kept.adopted && kept.state == JobState::Done);
    assert_eq!(store.can("a".into()).await.unwrap(), (true, false));

    drop(store);
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(Store::open(folder.path()), Err(ServeError::LaterVersion { found: 99, .. })));
}

#[tokio::test]
async fn only_so_many_steps_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.connection.lock().unwrap().pragma_update(None, "synchronous", "OFF").unwrap();
    for _ in 0..210 {
        store.create("a".into(), SIZE, vec![new(0, 1)]).await.unwrap();
    }
    let mut steps = 0;
    while store.undo("a".into()).await.unwrap().is_some() {
        steps += 1;
    }
    assert_eq!((steps, ids(&store).await.len()), (200, 10));
}
